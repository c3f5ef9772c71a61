"""Reports: tables, pictures, the HTML page, and what TensorBoard and wandb show."""
