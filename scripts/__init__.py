"""Commands for developers that rewrite files of this repository; each has --check."""
