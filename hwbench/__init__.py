"""hwbench: which pruned model do I ship on this device?"""

__version__ = "0.1.0"
