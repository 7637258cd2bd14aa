"""`mova ask --batch`: a file of questions in, a file of answers out, and a journal to resume from."""
