"""Times of generated code beside other ways to compute the same: `scandsl bench`.

From top to bottom: `run` judges and times one scan at one shape, `worker` is the process in which
one contender lives, `contenders` says which there are, `peers` what other packages offer, `floor`
what a plan needs at least, `machine` what the machine gives, `inputs` the data, `show` a table and
a plot.
"""
