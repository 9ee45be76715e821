"""What a training is planned from: minutes, memory, and measured speed."""
