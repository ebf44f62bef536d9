"""The load client. It speaks HTTP only, so it can measure any server with an OpenAI API.

server_process.py   a server as a child process: started, awaited, ended
client.py           one streamed request, every token's arrival timed
closed_loop.py      a fixed number of requests always in flight
"""
