"""Number formats: torch only. fp8 and fp4 turn float matrices into packed codes and back."""
