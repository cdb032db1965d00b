"""The stage interfaces, one short file each. A plugin fills a stage by subclassing its class."""
