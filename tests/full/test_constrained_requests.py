"""An untrained model follows random JSON schemas, in an engine that other texts share."""

import json

import jax
import jsonschema
from flax import nnx
from hypothesis import given, settings

from configs.schema.mesh import Mesh
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import Constraint
from inference.engine.engine import Engine
from inference.engine.programs import MASKS, Programs
from inference.requests import Request, Sampling
from parallel.mesh import flat_mesh
from tests.inference.test_constraints import SCHEMAS, TEXT
from tests.model.decoders import make_decoder

SCHEMA_COUNT, CONTEXT = 1000, 512


def test_texts_of_an_untrained_model_are_valid_under_their_schemas():
    schemas: list[dict] = []

    @settings(max_examples=SCHEMA_COUNT, deadline=None, derandomize=True, database=None)
    @given(SCHEMAS)
    def collect(schema):
        schemas.append(schema)

    collect()
    tokenizer = Tokenizer.train_bpe([TEXT], 400)
    module = make_decoder(vocabulary_size=tokenizer.vocabulary_size, max_length=CONTEXT)
    graph, params = nnx.split(module)
    mesh, rules = flat_mesh(jax.devices()[:1]), Mesh().rules.model_dump()
    options = frozenset({MASKS})
    programs = Programs.of(graph, tokenizer, mesh=mesh, rules=rules, options=options)
    engine = Engine(programs, params, tokenizer, context=CONTEXT, sizes=(16,))
    jobs = []
    for seed, schema in enumerate(schemas):
        constraint = Constraint("json_schema", json.dumps(schema))
        request = Request(
            "", max_tokens=CONTEXT, sampling=Sampling(seed=seed), constraint=constraint
        )
        jobs.append(engine.submit(request))
    engine.run()
    ended = 0
    for schema, job in zip(schemas, jobs, strict=True):
        assert job.error is None
        if job.completion.finish_reason == "stop":
            jsonschema.validate(json.loads(job.completion.text), schema)
            ended += 1
    assert len(schemas) >= SCHEMA_COUNT and ended >= 0.95 * len(schemas)
