"""Many requests on one model: pool, prefix cache, scheduler, sampler, speculation."""
