"""What makes a rule of any conv of PyTorch Geometric."""
