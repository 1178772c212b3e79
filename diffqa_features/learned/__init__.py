"""What gradient descent fits: one room per published method, one training loop.

In: media and opinion scores. Out: fitted regressors that predict, save and resume. Each
method's `regressor` shows its data, network, loss and scores; `_base` has what all of
them share, `_training` the loop, `_files` the saved form. Open `genziqa/regressor`
first.
"""
