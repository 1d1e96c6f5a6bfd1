"""Where a request goes: hosts as arrays, and a small set of named policies that score what would be left of each."""
