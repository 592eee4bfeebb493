"""What policies say, computed: combining their answers, checking them, permissions by effect, and documents."""
