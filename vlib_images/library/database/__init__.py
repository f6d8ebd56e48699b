"""The library's database: what it contains, in one file beside the cartridges, by SQLAlchemy Core.

`database` opens it and gives out transactions, `schema` has the tables, `sqlite` is the only module that speaks
SQLite's own SQL, `upgrade` brings an older schema up to date, `takeover` reads what versions before it kept in JSON
files.
"""
