"""Where the data of I/Os lies, and what protects it.

`buffers`  pools of aligned data buffers
`domain`   data outside of this process's memory
`dif`      protection information: guards, made, checked, moved
"""
