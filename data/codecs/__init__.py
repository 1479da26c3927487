"""What turns text, pictures and sound into numbers and back: for data, tasks and inference."""
