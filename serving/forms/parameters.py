"""What the parameters of requests mean, in a sentence each, for the description of the routes."""

from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "model": "The name of the model; `/v1/models` tells it.",
    "prompt": "What to go on with: a text, the ids of tokens, or a list of either.",
    "max_tokens": "Tokens that an answer has at most.",
    "n": "Number of answers to each prompt.",
    "stop": "Texts before which an answer ends.",
    "seed": "The same seed and parameters give the same answer. Without one, answers differ.",
    "temperature": "Flattens (above 1) or sharpens (below 1) the distribution of the next token; "
    "0 takes the likeliest token.",
    "top_p": "Draws from the smallest set of tokens with at least this total probability.",
    "top_k": "Draws from this many of the likeliest tokens; 0: all.",
    "min_p": "Draws from the tokens that are at least this many times as likely as the likeliest.",
    "repetition_penalty": "Divides the logits of tokens that the prompt or the answer has.",
    "frequency_penalty": "Lowers the logit of a token for each time the answer has it.",
    "presence_penalty": "Lowers the logits of the tokens that the answer has.",
    "logit_bias": "Adds to the logits of tokens: from ids, as texts, to numbers from -100 to 100.",
    "stream": "Whether to send the answer in parts, as server-sent events.",
    "stream_options": "Options of a stream.",
    "prediction": "A text that the answer is expected to resemble; it then comes sooner.",
    "response_format": "What the answer must be: any text, a JSON object, or what a schema says.",
    "echo": "Whether the answer begins with the prompt.",
    "logprobs": "Whether to return log-probabilities of tokens; for completions, of how many "
    "alternatives.",
}
"""The meaning of each parameter, by its name: it is the same on all routes."""
