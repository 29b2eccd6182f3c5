"""Pictures and voices to try, and how they were made."""
