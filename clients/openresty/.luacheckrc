-- From this folder: luacheck lib
std = "ngx_lua"
max_line_length = 120
unused_args = true
