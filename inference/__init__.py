"""Uses trained models: completes, fills in and translates texts, transcribes, classifies."""
