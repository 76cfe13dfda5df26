"""Golden references for porters: record every step of a run, check a port's dump against it, and diagnose what differs.

recording   a model and pixels -> a folder of every step, with a manifest
folder      that folder's files, and the files a port dumps
alignment   the names and layouts of a port's arrays -> ours
checking    how far a dump is from a golden, step by step, and whose fault it is
mistakes    what people do wrong, as changes of the forward pass
diagnosing  which of those reproduces a port's numbers
report      all of it on paper
"""
