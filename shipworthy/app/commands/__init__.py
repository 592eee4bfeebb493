"""What each command does; `shipworthy.app.cli` says what it takes. Imported when a command runs, not before."""
