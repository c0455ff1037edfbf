"""Training: the only stage that imports lightning, and only where it trains.

`config` says how a network is trained, `losses` what is minimised. `module.TrainingModule` and
`data.SessionsDataModule` work with any Lightning Trainer; `fit.fit` is the package's own.
"""
