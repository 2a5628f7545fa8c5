"""Fine-tuning: from an encoder and SQuAD files to a checkpoint that `build` takes.

data and negatives make the windows, model and teacher the logits, train the steps, state the
checkpoints that a run can go on from, evaluation the score on held-out articles and the threshold.
"""
