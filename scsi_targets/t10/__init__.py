"""Declarations of the T10 standards: each field is declared once and gives decode, encode, usage mask and name."""
