"""Input files fetched from URLs, data URIs and S3; output files stored in S3 or a folder."""
