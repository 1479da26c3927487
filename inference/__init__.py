"""From a restored model to an answer: text that goes on, is filled in or translated, a label."""
