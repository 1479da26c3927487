"""From a restored model to answers: continued, filled-in or translated text, transcripts,
labels."""
