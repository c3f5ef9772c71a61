"""Reports: tables, pictures, and what TensorBoard and wandb show."""
