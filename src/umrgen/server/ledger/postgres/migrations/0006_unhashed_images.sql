-- Images without a perceptual hash in the registry of fingerprints: those that were made before it, which may be all of
-- them, and those that are adopted. A server hashes their files, and deletes the rows.
CREATE TABLE unhashed_images (
    name TEXT COLLATE "C" PRIMARY KEY
);

INSERT INTO unhashed_images (name) SELECT name FROM outputs;
