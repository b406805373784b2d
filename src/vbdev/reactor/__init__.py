"""One thread's loop, and what runs on it.

`reactor` turns: messages, tasks, pollers, timers, descriptors; `reactors` are all of a process;
`clock`, `task`, `timers`, `poller` and `questions` are what it is made of. `blocking` makes calls
beside it that may block, `threads` names threads, `listen` accepts connections, `fd_limit` says who
has the last descriptors.
"""
