"""What a run leaves behind, written so that nothing is lost and read so that nothing is trusted."""
