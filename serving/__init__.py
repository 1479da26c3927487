"""The HTTP server: OpenAI's routes and Triform's own, their limits, and the web page. The answers
come from the engine and the predictors of `inference`."""
