"""Training: one loop for training and recovering, resumable to the same bits, on any number of processes.

fit(Training(network, objective, batches, config, state_dir)) -> Fitted     the loop
train(None, TrainConfig(...), out_dir)                                      the stage
"""
