"""How many processes and machines a rate takes: a simulation with measured service times.

`costs` has what was measured, `site` what is simulated, `routing` and `arrivals` what comes from
outside, `batching` the engine and its queue, `simulation` the way of a call through all of it.
"""
