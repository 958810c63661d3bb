"""The server: the target model with its exits, the engine that batches rounds, sessions, training."""
