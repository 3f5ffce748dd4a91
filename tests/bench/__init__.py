"""Tests of the measuring tools: that they measure what they say, at tiny sizes. No figure is judged here."""
