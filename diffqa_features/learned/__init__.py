"""Estimators trained by gradient descent: one room per published method, one loop.

In: media and opinion scores. Out: fitted regressors that predict, save and resume. Each
method's `regressor` shows its data, network, loss and scores; `_base` has the one
`fit`, `_regression` adds what concerns scores, `_training` the loop, `_files` the saved
form. Open `genziqa/regressor` first.
"""
