"""What a person looks at: one self-contained page, and plots for papers. Reads saved runs, never a model."""
