"""The HTTP server: OpenAI's routes and ours, their limits, and the web page. It answers with the
engine and the predictors of `inference`."""
