"""Files that strangers name, brought here with care; results, brought where they are wanted."""
