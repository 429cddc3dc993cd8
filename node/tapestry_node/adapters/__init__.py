"""An institution's adapter: trained, paid for, described, published."""
