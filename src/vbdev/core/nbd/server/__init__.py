"""An export's end of a connection.

`stream`  requests to batches, completions to replies
`memory`  the memory that clients' data takes, and who gets it next
"""
