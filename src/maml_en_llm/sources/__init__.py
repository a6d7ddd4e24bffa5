"""Foreign data made into tasks: files, the hub, the paper's catalogue, and how good the data is."""
