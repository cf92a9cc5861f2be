"""Small language models on text that every machine has: corpus, tokens, models, evaluation.

A straight loop is put together from functions: ``tokens`` gives batches, ``models`` a public
architecture at a small size, ``training`` the gradient and the step (a loop may look at gradients
in between: masks, growth, snapshots), ``evaluate`` losses and multiple choice, ``flops`` the cost.
"""
