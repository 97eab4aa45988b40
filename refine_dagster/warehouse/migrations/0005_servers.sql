-- Which server gave a completion of the backend `endpoint`. The ledger's digests cover
-- `store.completions` as it is, so this stands beside it.
CREATE TABLE store.answers (
    key VARCHAR PRIMARY KEY,
    server VARCHAR NOT NULL,
    problem VARCHAR                -- why nothing was written, where the server refused the request
);

-- What servers said about themselves, and what was measured of them.
CREATE TABLE store.servers (
    server VARCHAR PRIMARY KEY,    -- names the description
    url VARCHAR NOT NULL,
    software VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    fingerprint VARCHAR NOT NULL,  -- over what the server says about the model's files
    api VARCHAR NOT NULL,          -- `completions` or `chat`
    repeats BOOLEAN,               -- whether the same request, asked twice, had the same answer
    scores BOOLEAN NOT NULL,       -- whether it gives log-probabilities of a text
    template_tokens BIGINT         -- tokens that the chat template adds to a message
);
