"""How the published weights come onto this machine: manifest, sources, download, verification. Without torch."""
