"""The on-board agent: what runs on a Jetson, packed into one file by `edgeres.bench.boards`.

Standard library only and Python 3.6 syntax (JetPack 4.6 has nothing newer); of the rest of edgeres it imports only what
`edgeres.bench.boards` packs beside it (`SHARED`), which keeps to the same. It never goes through a shell: every program
is started from a list of arguments. Never run on real hardware so far: only against programs that imitate JetPack's.
"""
