"""The knowledge base on Ray: how it is built, grows, is repaired and asked."""
