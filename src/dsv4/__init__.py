"""dsv4: the whole of DeepSeek-V4 in one readable PyTorch codebase."""
