"""The page of a migration: what is collected, what follows from it, and how it is drawn."""

from multifd_proto.views.page.collect import Collector
from multifd_proto.views.page.facts import Facts
from multifd_proto.views.page.html import demand_libraries, page

__all__ = ["Collector", "Facts", "demand_libraries", "page"]
