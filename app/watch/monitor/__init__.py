"""What watches runs for other programs: metrics for Prometheus, and what TensorBoard and MLflow show."""
