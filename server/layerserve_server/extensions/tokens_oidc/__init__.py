"""JSON Web Tokens of an identity provider (OpenID Connect): the table [jwt] of the tokens file."""
