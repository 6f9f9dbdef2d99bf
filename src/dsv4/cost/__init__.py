"""What a model costs, counted from its config: FLOPs, bytes, time, money. No tensor is made.

Every formula stands beside the line of the model that it counts, and tests hold them to counted
products and to real caches.
"""

from dsv4.cost.report import Cost, cost, costs

__all__ = ["Cost", "cost", "costs"]
